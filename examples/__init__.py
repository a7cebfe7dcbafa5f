"""Short, seeded examples on data that ships with them; installed as ``gradscope.examples``."""
