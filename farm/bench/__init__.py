"""What the farm's machinery takes: measured on throw-away farms, beside the goals. Nothing here is a promise."""
