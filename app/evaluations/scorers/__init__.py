"""How good an answer is: pure functions of an answer and what it should have been."""
