"""Small processes that the memory and idle scenarios start and look at from outside."""
