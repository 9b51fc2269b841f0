"""Parts that several encoders, decoders and modalities share."""
