"""Reading data sets through Ray Data into one array in the object store."""
