package graph

import (
	"fmt"
	"testing"
)

func TestWaves(t *testing.T) {
	for name, c := range map[string]struct {
		requires string // pairs: "ab" is a requires b
		want     string
	}{
		"nothing":           {"", "[[a b c d]] []"},
		"a chain":           {"ab bc cd", "[[d] [c] [b] [a]] []"},
		"a diamond":         {"ab ac bd cd", "[[d] [b c] [a]] []"},
		"unknown":           {"ax", "[[a b c d]] []"},
		"a cycle":           {"ab bc ca", "[[d]] [[a b c]]"},
		"behind a cycle":    {"ab bc cb", "[[d]] [[b c]]"},
		"two cycles":        {"ab ba cd dc", "[] [[a b] [c d]]"},
		"itself":            {"aa", "[[b c d]] [[a]]"},
		"two through a":     {"ab ba ac ca", "[[d]] [[a b] [a c]]"},
		"before and behind": {"ab bc cb cd", "[[d]] [[b c]]"},
	} {
		t.Run(name, func(t *testing.T) {
			requires := map[string][]string{}
			for i := 0; i+1 < len(c.requires); i += 3 {
				from := c.requires[i : i+1]
				requires[from] = append(requires[from], c.requires[i+1:i+2])
			}
			waves, cycles := Waves([]string{"a", "b", "c", "d"}, requires)
			if got := fmt.Sprint(waves, cycles); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}
