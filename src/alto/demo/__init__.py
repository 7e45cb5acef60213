"""`alto demo`: a chatbot's answers, checked claim by claim while they are written."""
