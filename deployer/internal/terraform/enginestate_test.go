package terraform

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckState(t *testing.T) {
	const whole = `{"version":4,"serial":7,"lineage":"aaaa","outputs":{"instances":{"value":{"g/0":{"id":"vm-0"},"g/1":{"id":"vm-1"}}}}}`
	vms := []string{"vm-0", "vm-1"}
	for _, tc := range []struct {
		name string
		text *string
		was  StateID
		want string // part of the error, "" for none
	}{
		{"whole", new(whole), StateID{"aaaa", 7}, ""},
		{"from before identities were kept", new(whole), StateID{}, ""},
		{"later, of a run that was ended", new(strings.ReplaceAll(whole, "vm-", "other-")), StateID{"aaaa", 6}, ""},
		{"put back, and has them all", new(whole), StateID{"aaaa", 9}, ""},
		{"missing", nil, StateID{"aaaa", 7}, "is missing"},
		{"empty", new("\n"), StateID{"aaaa", 7}, "is empty"},
		{"halved", new(whole[:len(whole)/2]), StateID{"aaaa", 7}, "is cut off"},
		{"no state", new("{}"), StateID{}, "has no lineage"},
		{"another's", new(whole), StateID{"bbbb", 7}, "another deployment's"},
		{"older", new(strings.ReplaceAll(whole, "vm-1", "vm-old")), StateID{"aaaa", 9}, "lacks 1 of 2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			if tc.text != nil {
				if err := os.WriteFile(filepath.Join(dir, StateFile), []byte(*tc.text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			now, err := CheckState(dir, tc.was, vms)
			if tc.want == "" {
				if err != nil || now != (StateID{"aaaa", 7}) {
					t.Errorf("got %+v, %v", now, err)
				}
				return
			}
			if !errors.Is(err, ErrState) || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), filepath.Join(dir, StateFile)) {
				t.Errorf("got %v, want %q and the file", err, tc.want)
			}
		})
	}
}
