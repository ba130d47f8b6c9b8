"""Stage 9, dashboard: Panel shows it all. State, data store, views and app are apart, so all but the app runs without a browser."""
