"""The configurations that ship with flowpairs: data, reached as `importlib.resources.files("flowpairs.configs")`."""
