"""One function a verb: its options and their help, and which exit code follows."""
