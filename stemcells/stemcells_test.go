// Package stemcells_test holds what must be true of the recipes and of the
// programs that they put into images.
package stemcells_test

import (
	"bytes"
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const deployDisk = "base/files/usr/local/sbin/deploy-disk"

// run runs a command that must succeed and returns what it prints.
func run(t *testing.T, command string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), command, args...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", command, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// TestOnlyABlankDiskIsFormatted: whatever may be on a disk is seen, also where no
// file system says so.
func TestOnlyABlankDiskIsFormatted(t *testing.T) {
	const size = 64 << 20
	write := func(at int64, data []byte) func(*testing.T, string) {
		return func(t *testing.T, disk string) {
			f, err := os.OpenFile(disk, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.WriteAt(data, at)
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	noise := make([]byte, 4096)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	after := func(steps ...func(*testing.T, string)) func(*testing.T, string) {
		return func(t *testing.T, disk string) {
			for _, step := range steps {
				step(t, disk)
			}
		}
	}
	command := func(name string, args ...string) func(*testing.T, string) {
		return func(t *testing.T, disk string) { run(t, name, append(args, disk)...) }
	}
	ours := command("mkfs.ext4", "-q", "-L", "deploy-disk")
	tests := []struct {
		name string
		put  func(*testing.T, string)
		want string
	}{
		{"nothing", func(*testing.T, string) {}, "blank"},
		{"our file system", ours, "ours"},
		{"ext4 with another label", command("mkfs.ext4", "-q", "-L", "data"), "foreign"},
		{"ext4 without a label", command("mkfs.ext4", "-q"), "foreign"},
		{"a FAT file system", command("mkfs.vfat"), "foreign"},
		{"a FAT file system with our label", command("mkfs.vfat", "-n", "deploy-disk"), "foreign"},
		{"ext2 with our label", command("mkfs.ext2", "-q", "-L", "deploy-disk"), "foreign"},
		{"swap", command("mkswap", "-q"), "foreign"},
		{"a partition table", func(t *testing.T, disk string) {
			run(t, "sh", "-c", `echo ",,L" | sfdisk -q "$1"`, "sh", disk)
		}, "foreign"},
		{"a GPT", func(t *testing.T, disk string) {
			run(t, "sh", "-c", `printf 'label: gpt\n,,L\n' | sfdisk -q "$1"`, "sh", disk)
		}, "foreign"},
		{"a GPT whose first copy is lost", func(t *testing.T, disk string) {
			run(t, "sh", "-c", `printf 'label: gpt\n,,L\n' | sfdisk -q "$1"`, "sh", disk)
			write(0, make([]byte, 1<<20))(t, disk)
		}, "foreign"},
		{"data without a file system", write(0, noise), "foreign"},
		{"data in the middle", write(size/2, noise), "foreign"},
		{"data at the end", write(size-4096, noise), "foreign"},
		{"one byte", write(5000, []byte{1}), "foreign"},
		{"our file system whose superblock is lost", after(ours, write(0, make([]byte, 4096))), "foreign"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			disk := filepath.Join(t.TempDir(), "disk")
			if err := os.WriteFile(disk, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(disk, size); err != nil {
				t.Fatal(err)
			}
			test.put(t, disk)
			before := run(t, "sha256sum", disk)
			if got := run(t, "sh", deployDisk, "inspect", disk); got != test.want {
				t.Errorf("it is called %s, not %s", got, test.want)
			}
			if run(t, "sha256sum", disk) != before {
				t.Error("looking at the disk changed it")
			}
		})
	}
}

// TestADiskThatIsTooSmallOrMissingIsNamed: neither is formatted nor passes for blank.
func TestADiskThatIsTooSmallOrMissingIsNamed(t *testing.T) {
	small := filepath.Join(t.TempDir(), "small")
	if err := os.WriteFile(small, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for disk, want := range map[string]string{small: "too small", small + "-missing": "there is no device " + small + "-missing"} {
		out, err := exec.CommandContext(t.Context(), "sh", deployDisk, "inspect", disk).CombinedOutput()
		if err == nil || !bytes.Contains(out, []byte(want)) {
			t.Errorf("%s: %v, %s", disk, err, out)
		}
	}
}

// TestRecipesAreWhole: each is a folder with a list of packages, from a base that
// is there, and has a line in the README.
func TestRecipesAreWhole(t *testing.T) {
	lists, err := filepath.Glob("*/packages")
	if err != nil || len(lists) == 0 {
		t.Fatalf("no recipes: %v", err)
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)
	for _, list := range lists {
		recipe := filepath.Dir(list)
		if !bytes.Contains(readme, []byte("| `"+recipe+"` |")) {
			t.Errorf("README.md has no line for the recipe %s", recipe)
		}
		data, err := os.ReadFile(list)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for line := range strings.Lines(string(data)) {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "#") {
				continue
			}
			if !name.MatchString(line) || seen[line] {
				t.Errorf("%s: %q is no name of a package, or there twice", list, line)
			}
			seen[line] = true
		}
		from, err := os.ReadFile(filepath.Join(recipe, "from"))
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(strings.TrimSpace(string(from)), "packages")); err != nil {
			t.Errorf("recipe %s is from a recipe that is not there: %v", recipe, err)
		}
	}
}

// TestBuildSaysWhatIsWrong: a mistyped name or option is answered at once.
func TestBuildSaysWhatIsWrong(t *testing.T) {
	for _, test := range []struct{ args, want string }{
		{"", "which recipe?"},
		{"bsae", "there is no recipe bsae; there are base"},
		{"--format vhd base", "cannot make the format vhd"},
		{"--nothing base", "there is no option --nothing"},
	} {
		cmd := exec.CommandContext(t.Context(), "sh", append([]string{"./build"}, strings.Fields(test.args)...)...)
		cmd.Env = append(os.Environ(), "STEMCELLS="+t.TempDir())
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), test.want) {
			t.Errorf("build %s: %v, %s", test.args, err, out)
		}
	}
}
