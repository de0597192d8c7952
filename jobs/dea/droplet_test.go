package dea

import "testing"

// FuzzDroplet: whatever an app's droplet.yaml holds, the DEA survives it.
func FuzzDroplet(f *testing.F) {
	for _, text := range []string{
		"---\nstate_file: app.state\n", "", "state_file: [", "state_file:\n !a # a tag without a value", "state_file: *a", "a: &a [*a, *a]", "\x00",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if file, err := parseDroplet(data); err != nil && file != "" {
			t.Errorf("%q and %v", file, err)
		}
	})
}
