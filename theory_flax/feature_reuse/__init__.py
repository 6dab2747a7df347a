"""Dense networks reuse features and need fewer parameters (Huang 2017)."""
