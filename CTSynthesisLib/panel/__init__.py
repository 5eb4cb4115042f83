"""What the module's widget shows, one file a section; besides ``CTSynthesis.py`` the only place that imports Qt."""
