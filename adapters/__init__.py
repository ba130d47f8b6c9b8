"""The adapters that come with iiot-dask; each is a folder, registered by entry point like a stranger's."""
