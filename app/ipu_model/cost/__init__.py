"""Cost rules of the IPU Model: what one op takes on one IPU, in cycles and bytes per tile."""
