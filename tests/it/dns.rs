//! Name service: what a container is told.
