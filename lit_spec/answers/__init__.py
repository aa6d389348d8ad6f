"""What the API answers, defined once: the API fills these classes from the ledger's rows, the client reads answers into
them."""
