"""What every stage imports: the record, quality, errors, clocks, configuration, metrics, plug-ins. Imports no stage."""
