"""Two pages, on which people rank answers and talk to models, their server, and the rankings that they write."""
