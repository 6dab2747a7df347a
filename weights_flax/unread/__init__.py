"""Files and networks of others that are not read here: the marks by which they are known, and what to do with them."""
