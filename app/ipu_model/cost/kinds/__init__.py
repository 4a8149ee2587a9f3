"""Cost rules by family; importing a module registers its rules."""
