"""What is predicted at hidden places."""
