"""The page on which people rank answers: its server, the items that it shows, and the rankings that it writes."""
