"""Key maps between published weights and ours, one file per origin."""
