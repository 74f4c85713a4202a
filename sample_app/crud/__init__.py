"""Reading and writing of models: the only place where queries are built."""
