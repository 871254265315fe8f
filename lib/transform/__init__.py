"""Python layers that change how an image blob is encoded."""
