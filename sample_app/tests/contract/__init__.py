"""What the service promises in its OpenAPI document, tried out."""
