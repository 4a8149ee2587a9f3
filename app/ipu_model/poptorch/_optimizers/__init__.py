"""Weight updates in PopART's own form: settings, gradients, rules, state."""
