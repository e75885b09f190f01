"""A batch as one HTML file: what came out, the SQL behind each number, and the flagged pairs to look at."""
