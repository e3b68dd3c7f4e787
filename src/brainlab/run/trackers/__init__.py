"""Where metrics go beside the run directory: MLflow, a CSV table, or any logger of Lightning."""
