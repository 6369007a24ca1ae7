"""What only Windows runs; under Wine where there is no Windows."""
