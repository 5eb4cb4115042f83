"""What turns a label map (or nothing, or a CT and a place) into a volume: the request, its parts, and one file an engine."""
