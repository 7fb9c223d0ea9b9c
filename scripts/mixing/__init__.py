"""Two versions of every service side by side, in containers: `./scripts/mixed`."""
