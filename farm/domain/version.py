"""Which turbofarm this is: shown by `farm --version`, written into every video."""

VERSION = "1.0.0"
