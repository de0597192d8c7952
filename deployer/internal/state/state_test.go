package state

import (
	"fmt"
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

func TestAssignFollowsTheZones(t *testing.T) {
	z := func(zones ...string) (out []Slot) {
		for i, zone := range zones {
			out = append(out, Slot{i, zone})
		}
		return out
	}
	for name, c := range map[string]struct {
		had   []Slot
		disks []int
		zones []string
		want  []Slot
	}{
		"a zone is removed":            {z("z1", "z2", "z3", "z1"), nil, []string{"z1", "z3"}, z("z1", "z3", "z3", "z1")},
		"a zone is added":              {z("z1", "z2", "z1", "z2"), nil, []string{"z1", "z2", "z3"}, z("z1", "z2", "z1", "z3")},
		"one of two in one zone":       {z("z1", "z1"), nil, []string{"z1", "z2"}, z("z1", "z2")},
		"too few for another zone":     {z("z1", "z2"), nil, []string{"z1", "z2", "z3"}, z("z1", "z2")},
		"the first zones":              {z("", "", ""), nil, []string{"z1", "z2"}, z("z1", "z2", "z1")},
		"no zones any more":            {z("z1", "z2"), nil, nil, z("z1", "z2")},
		"a zone removed under a disk":  {z("z1", "z2", "z3"), []int{1}, []string{"z1", "z3"}, z("z1", "z2", "z3")},
		"a zone added, disks are kept": {z("z1", "z1", "z1"), []int{1, 2}, []string{"z1", "z2"}, z("z2", "z1", "z1")},
	} {
		s := New("d")
		s.Groups, s.VMs = map[string][]Slot{"g": c.had}, map[string]VM{}
		for _, index := range c.disks {
			s.VMs[fmt.Sprintf("g/%d", index)] = VM{Disk: "/disk"}
		}
		got := s.Assign("g", len(c.had), c.zones)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
		s.Groups["g"] = got
		if again := s.Assign("g", len(got), c.zones); !slices.Equal(again, got) {
			t.Errorf("%s: a second time gives %v after %v", name, again, got)
		}
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
