"""Everything here is, or makes, a callable `app(env)`."""
