# Nothing. error: Missing deployment block; error: Missing infrastructure block
