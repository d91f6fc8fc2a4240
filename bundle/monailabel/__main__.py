"""`python -m bundle.monailabel --studies DIR`: start the server. `make label` does the same after installing it."""

from bundle.monailabel.serve import main

main()
