package views

import (
	"regexp"
	"strings"
)

// firstInstance is an instance's id in a line of text.
var firstInstance = regexp.MustCompile(`(^|[ :(])([a-z][a-z0-9_-]*/\d+)\b`)

// likewise puts together the texts that differ only in the instance that they name
// first: the first of them stays, and says which the others are. The empty ones and
// those that alone holds for stay as they are.
func likewise(texts []string, alone func(i int) bool) []string {
	type told struct {
		at     int // in out
		others []string
	}
	var out []string
	seen := map[string]*told{}
	var all []*told
	for i, text := range texts {
		at := firstInstance.FindStringSubmatchIndex(text)
		if at == nil || alone != nil && alone(i) {
			out = append(out, text)
			continue
		}
		id := text[at[4]:at[5]]
		key := strings.ReplaceAll(text, id, "\x00")
		if t := seen[key]; t != nil {
			t.others = append(t.others, id)
			continue
		}
		t := &told{at: len(out)}
		seen[key], all, out = t, append(all, t), append(out, text)
	}
	for _, t := range all {
		if len(t.others) > 0 {
			out[t.at] += " (likewise " + short(t.others) + ")"
		}
	}
	return out
}

// likewiseLines is likewise for the lines of a text. A line that indented ones belong
// to stays.
func likewiseLines(text string) string {
	lines := strings.Split(text, "\n")
	return strings.Join(likewise(lines, func(i int) bool {
		return i+1 < len(lines) && strings.HasPrefix(lines[i+1], " ") || strings.HasPrefix(lines[i], " ")
	}), "\n")
}
