"""Images of the services: what each is made of, how it is built and weighed, and how it gets to a registry."""
