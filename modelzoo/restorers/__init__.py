"""Networks that make of a degraded image what it was before: noise, rain, blur, haze; one family per file."""
