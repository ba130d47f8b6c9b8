"""`python -m iiot_dask` is `iiot-dask`."""

from iiot_dask.cli import main

if __name__ == "__main__":
    main()
