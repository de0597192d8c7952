package state

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestAssignKeepsIndexAndZoneForLife(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := New("cf")
		s.Groups = map[string][]Slot{}
		zones := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"z1", "z2", "z3"}), 0, 3, rapid.ID[string]).Draw(t, "zones")
		for range rapid.IntRange(1, 6).Draw(t, "steps") {
			n := rapid.IntRange(0, 20).Draw(t, "n")
			before := s.Groups["dea"]
			after := s.Assign("dea", n, zones)
			if len(after) != n {
				t.Fatalf("got %d slots, want %d", len(after), n)
			}
			for i, slot := range after {
				if i > 0 && after[i-1].Index >= slot.Index {
					t.Fatalf("indexes are not ascending: %v", after)
				}
				if i < len(before) && slot != before[i] {
					t.Fatalf("slot %d changed from %v to %v", i, before[i], slot)
				}
			}
			s.Groups["dea"] = after
		}
	})
}

func TestAssignSpreadsOverZones(t *testing.T) {
	s := New("cf")
	got := s.Assign("dea", 5, []string{"z1", "z2"})
	want := []Slot{{0, "z1"}, {1, "z2"}, {2, "z1"}, {3, "z2"}, {4, "z1"}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestAssignGoesWhereTheDiskIs(t *testing.T) {
	s := State{Orphans: []Orphan{{Group: "db", Index: 0, AZ: "z2"}, {Group: "db", Index: 1, AZ: "gone"}, {Group: "other", Index: 2, AZ: "z2"}}}
	got := s.Assign("db", 3, []string{"z1", "z2"})
	want := []Slot{{0, "z2"}, {1, "z1"}, {2, "z1"}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestSaveWritesOnlyWhatDiffers(t *testing.T) {
	store := Store{Dir: filepath.Join(t.TempDir(), ".deploy", "cf")}
	st, secrets := New("cf"), &Secrets{DigestKey: []byte("key"), Values: map[string]map[string]string{"nats": {"value": "x"}}}
	st.Memory = []byte(`{"groups":[{"name":"a"}]}`)
	if wrote, err := store.Save(st, secrets); err != nil || !wrote {
		t.Fatalf("first save: wrote %v, error %v", wrote, err)
	}
	loaded, loadedSecrets, err := store.Load()
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(loadedSecrets, secrets) {
		t.Errorf("secrets came back as %v", loadedSecrets)
	}
	if wrote, err := store.Save(loaded, loadedSecrets); err != nil || wrote {
		t.Errorf("saving what was loaded: wrote %v, error %v", wrote, err)
	}
	for _, name := range []string{"state.json", "secrets.json", ".gitignore"} {
		info, err := os.Stat(filepath.Join(store.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s can be read by others: %v", name, info.Mode())
		}
	}
}

func TestLoadRefusesAnotherVersion(t *testing.T) {
	store := Store{Dir: t.TempDir()}
	if err := os.WriteFile(filepath.Join(store.Dir, "state.json"), []byte(`{"version":99}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := store.Load(); err == nil {
		t.Error("a state of version 99 was accepted")
	}
}
