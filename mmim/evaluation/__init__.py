"""What vectors say about labels: functions of arrays, which know no model."""
