package plan

import (
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/aymanbagabas/go-udiff"

	"github.com/clusterworks/deploy/agent/api"
)

// difference returns how the shown texts of a file differ. PEM blocks are compared
// by their fingerprints, since nobody compares base64; where only how a block is
// written differs, it is shown as it is.
func difference(name, from, to string, existed, exists bool) string {
	before, after := name, name
	if !existed {
		before = "/dev/null"
	}
	if !exists {
		after = "/dev/null"
	}
	diff := udiff.Unified(before, after, shortenPEM(from), shortenPEM(to))
	if diff == "" && from != to {
		return udiff.Unified(before, after, from, to)
	}
	return diff
}

// shortenPEM puts a line with its kind and fingerprint in the place of each PEM
// block that is whole.
func shortenPEM(text string) string {
	if !strings.Contains(text, "-----BEGIN ") {
		return text
	}
	lines := strings.SplitAfter(text, "\n")
	var out strings.Builder
	for i := 0; i < len(lines); i++ {
		n, short := pemBlock(lines[i:])
		if n == 0 {
			out.WriteString(lines[i])
			continue
		}
		out.WriteString(short)
		i += n - 1
	}
	return out.String()
}

// pemBlock returns how many lines the PEM block that begins here has, and one line
// for it; 0 if none begins here.
func pemBlock(lines []string) (int, string) {
	if !strings.HasPrefix(strings.TrimSpace(lines[0]), "-----BEGIN ") {
		return 0, ""
	}
	var block strings.Builder
	for i, l := range lines {
		word := strings.TrimSpace(l)
		block.WriteString(word + "\n")
		if !strings.HasPrefix(word, "-----END ") {
			continue
		}
		decoded, _ := pem.Decode([]byte(block.String()))
		if decoded == nil {
			return 0, ""
		}
		indent := lines[0][:len(lines[0])-len(strings.TrimLeft(lines[0], " \t"))]
		short := fmt.Sprintf("%s%s, sha256 %x", indent, strings.ToLower(decoded.Type), sha256.Sum256(decoded.Bytes))
		if strings.HasSuffix(l, "\n") {
			short += "\n"
		}
		return i + 1, short
	}
	return 0, ""
}

// mostShown is the number of characters that are shown of a word of a command.
const mostShown = 60

// commandChange says how the command of a process changes: the words that differ,
// with "…" for those that stay. An earlier command is shown only if its spec says how
// people may see it.
func commandChange(was, now *api.Job, process string) string {
	to, known := now.Commands[process]
	if !known {
		return "command"
	}
	from, known := was.Commands[process]
	if !known {
		return "command, now " + words(to, 0, 0)
	}
	if slices.Equal(from, to) {
		return "command (a sensitive value)"
	}
	begin, end := 0, 0
	for begin < min(len(from), len(to)) && from[begin] == to[begin] {
		begin++
	}
	for end < min(len(from), len(to))-begin && from[len(from)-1-end] == to[len(to)-1-end] {
		end++
	}
	return "command " + words(from, begin, end) + " -> " + words(to, begin, end)
}

// words are the words of a command but the first and last few, which are as before.
func words(command []string, first, last int) string {
	var out []string
	if first > 0 {
		out = append(out, "…")
	}
	for _, w := range command[first : len(command)-last] {
		w = strings.TrimSuffix(shortenPEM(w+"\n"), "\n")
		if r := []rune(w); len(r) > mostShown {
			w = string(r[:mostShown]) + "…"
		}
		if w == "" || strings.ContainsAny(w, " \t\n\"'\\") {
			w = strconv.Quote(w)
		}
		out = append(out, w)
	}
	if last > 0 {
		out = append(out, "…")
	}
	return strings.Join(out, " ")
}
