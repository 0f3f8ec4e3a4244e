"""Who may do what over REST, and the trail of what was done."""
