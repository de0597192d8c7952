package views

import (
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"io"
	"strings"
)

func printDiff(w io.Writer, diff string, color bool) {
	for _, l := range shortenPEM(strings.Split(strings.TrimSuffix(diff, "\n"), "\n")) {
		switch {
		case strings.HasPrefix(l, "+"):
			l = paint(color, green, l)
		case strings.HasPrefix(l, "-"):
			l = paint(color, red, l)
		}
		fmt.Fprintf(w, "      %s\n", l)
	}
}

// shortenPEM puts the fingerprint in the place of each PEM block that is whole, and
// whole on one side of the diff: nobody compares base64.
func shortenPEM(lines []string) []string {
	var out []string
	for i := 0; i < len(lines); i++ {
		n, short := pemBlock(lines[i:])
		if n == 0 {
			out = append(out, lines[i])
			continue
		}
		out = append(out, short)
		i += n - 1
	}
	return out
}

// pemBlock returns how many lines the PEM block that begins here has, and one line
// for it; 0 if none begins here.
func pemBlock(lines []string) (int, string) {
	if lines[0] == "" {
		return 0, ""
	}
	side, first := lines[0][:1], strings.TrimSpace(lines[0][1:])
	if !strings.Contains("+- ", side) || !strings.HasPrefix(first, "-----BEGIN ") {
		return 0, ""
	}
	var text strings.Builder
	for i, l := range lines {
		if !strings.HasPrefix(l, side) {
			return 0, ""
		}
		l = strings.TrimSpace(l[1:])
		text.WriteString(l + "\n")
		if !strings.HasPrefix(l, "-----END ") {
			continue
		}
		block, _ := pem.Decode([]byte(text.String()))
		if block == nil {
			return 0, ""
		}
		indent := lines[0][1 : len(lines[0])-len(strings.TrimLeft(lines[0][1:], " \t"))]
		return i + 1, fmt.Sprintf("%s%s%s, sha256 %x", side, indent, strings.ToLower(block.Type), sha256.Sum256(block.Bytes))
	}
	return 0, ""
}
