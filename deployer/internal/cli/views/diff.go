package views

import (
	"fmt"
	"io"
	"strings"
)

func printDiff(w io.Writer, diff string, color bool) {
	for _, l := range strings.Split(strings.TrimSuffix(diff, "\n"), "\n") {
		switch {
		case strings.HasPrefix(l, "+"):
			l = paint(color, green, l)
		case strings.HasPrefix(l, "-"):
			l = paint(color, red, l)
		}
		fmt.Fprintf(w, "      %s\n", l)
	}
}
