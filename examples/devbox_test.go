//go:build e2e

package examples

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// ofTheImage matches a file that a job takes from its VM's image.
var ofTheImage = regexp.MustCompile(`path\.image\}/?([\w./-]+)|"(devbox/[\w./*-]+)"`)

// TestDevboxRecipe does what the recipe of the stemcell devbox does outside of its image,
// and compares what is there then with what the jobs of the example start and rewrite. It
// boots nothing.
func TestDevboxRecipe(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	source, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	command := []string{"sh", filepath.Join(source, "stemcells", "devbox", "prepare"), root}
	if os.Getuid() != 0 {
		command = append([]string{"fakeroot"}, command...)
	}
	cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "STEMCELL_SOURCE="+source, "SOURCE_DATE_EPOCH=1700000000")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(command, " "), err, out)
	}

	wanted := map[string]bool{}
	jobs, err := filepath.Glob("template-vm/components/*/job.hcl")
	if err != nil || len(jobs) < 6 {
		t.Fatalf("only these jobs: %v, %v", jobs, err)
	}
	for _, job := range jobs {
		data, err := os.ReadFile(job)
		if err != nil {
			t.Fatal(err)
		}
		found := ofTheImage.FindAllStringSubmatch(string(data), -1)
		if len(found) == 0 {
			t.Errorf("%s takes nothing from the image", job)
		}
		for _, m := range found {
			wanted[m[1]+m[2]] = true
		}
	}
	if len(wanted) < 8 {
		t.Fatalf("the jobs are read wrongly: %v", wanted)
	}
	for name := range wanted {
		there, err := filepath.Glob(filepath.Join(root, name))
		if err != nil || len(there) == 0 {
			t.Errorf("a job takes %s from the image, which lacks it", name)
		}
	}

	// All of it is of one time and nobody's to change, and the programs run.
	seen := 0
	err = filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		seen++
		name := strings.TrimPrefix(path, root)
		if info.ModTime().Unix() != 1700000000 {
			t.Errorf("%s is of %s: two builds differ", name, info.ModTime())
		}
		if info.Mode().Perm()&0o022 != 0 || info.Mode().Perm()&0o044 != 0o044 {
			t.Errorf("%s has the mode %s", name, info.Mode())
		}
		if strings.HasPrefix(name, "/devbox/bin/") && info.Mode().Perm()&0o111 != 0o111 {
			t.Errorf("the program %s cannot be run: %s", name, info.Mode())
		}
		return nil
	})
	if err != nil || seen < 15 {
		t.Errorf("only %d files: %v", seen, err)
	}
}
