"""Which of a study's files stay, what goes first, and how much room they take."""
