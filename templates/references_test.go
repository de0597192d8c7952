package templates_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// traversals returns what the expressions of a body refer to, and the names that
// dynamic blocks give to what they go through.
func traversals(body *hclsyntax.Body) (found []hcl.Traversal, iterators []string) {
	for name, attr := range body.Attributes {
		if name == "ignore_changes" {
			continue // attributes of the resource itself
		}
		found = append(found, attr.Expr.Variables()...)
	}
	for _, block := range body.Blocks {
		if block.Type == "dynamic" {
			iterators = append(iterators, block.Labels[0])
		}
		below, more := traversals(block.Body)
		found, iterators = append(found, below...), append(iterators, more...)
	}
	return found, iterators
}

// step returns the name of a step of a traversal, "" if there is none.
func step(t hcl.Traversal, at int) string {
	if at < len(t) {
		if a, ok := t[at].(hcl.TraverseAttr); ok {
			return a.Name
		}
	}
	return ""
}

// TestTemplatesReferToWhatIsThere: as terraform validate would see it, also where the
// provider cannot be had: each variable, local and resource that an expression names
// is declared, each provider is named, and the settings used are those that are
// allowed and told of.
func TestTemplatesReferToWhatIsThere(t *testing.T) {
	dirs, err := filepath.Glob("*/main.tf")
	if err != nil || len(dirs) < 7 {
		t.Fatalf("only these templates: %v, %v", dirs, err)
	}
	for _, path := range dirs {
		name := filepath.Dir(path)
		t.Run(name, func(t *testing.T) {
			files, err := filepath.Glob(filepath.Join(name, "*.tf"))
			if err != nil {
				t.Fatal(err)
			}
			declared := map[string]bool{}
			providers := map[string]bool{}
			var used []hcl.Traversal
			roots := []string{"var", "local", "data", "each", "path", "self", "terraform", "count"}
			text := ""
			parser := hclparse.NewParser()
			for _, f := range files {
				file, diags := parser.ParseHCLFile(f)
				if diags.HasErrors() {
					t.Fatal(diags)
				}
				text += string(file.Bytes)
				for _, block := range file.Body.(*hclsyntax.Body).Blocks {
					found, iterators := traversals(block.Body)
					roots = append(roots, iterators...)
					switch block.Type {
					case "variable":
						declared["var."+block.Labels[0]] = true
					case "locals":
						for local := range block.Body.Attributes {
							declared["local."+local] = true
						}
					case "resource":
						declared[block.Labels[0]+"."+block.Labels[1]] = true
					case "data":
						declared["data."+block.Labels[0]+"."+block.Labels[1]] = true
					case "terraform":
						for _, b := range block.Body.Blocks {
							for provider := range b.Body.Attributes {
								providers[provider] = true
							}
						}
						continue
					}
					if block.Type == "variable" || block.Type == "resource" || block.Type == "data" || block.Type == "locals" || block.Type == "output" || block.Type == "provider" {
						for _, u := range found {
							if u.RootName() != "string" && u.RootName() != "number" { // types of variables
								used = append(used, u)
							}
						}
					}
				}
			}
			settings := map[string]bool{}
			for _, u := range used {
				root, key := u.RootName(), ""
				switch {
				case root == "var":
					key = "var." + step(u, 1)
					if s := step(u, 2); step(u, 1) == "settings" && s != "" {
						settings[s] = true
					}
				case root == "local":
					key = "local." + step(u, 1)
				case root == "data":
					key = "data." + step(u, 1) + "." + step(u, 2)
				case slices.Contains(roots, root) || root == "bool" || root == "any":
					continue
				default:
					key = root + "." + step(u, 1)
				}
				if !declared[key] {
					t.Errorf("%s refers to %s, which is declared nowhere", u.SourceRange(), key)
				}
			}
			for what := range declared {
				kind, _, _ := strings.Cut(strings.TrimPrefix(what, "data."), ".")
				if provider, _, ok := strings.Cut(kind, "_"); ok && provider != "terraform" && !providers[provider] {
					t.Errorf("%s is of the provider %s, which required_providers does not name", what, provider)
				}
			}
			readme, err := os.ReadFile(filepath.Join(name, "README.md"))
			if err != nil {
				if readme, err = os.ReadFile("README.md"); err != nil {
					t.Fatal(err)
				}
			}
			list := regexp.MustCompile(`setsubtract\(keys\(var\.settings\), \[([^\]]*)\]`).FindStringSubmatch(text)
			for s := range settings {
				if list != nil && !strings.Contains(list[1], `"`+s+`"`) {
					t.Errorf("the setting %s is used and refused", s)
				}
				if !strings.Contains(string(readme), "`"+s+"`") && !strings.Contains(string(readme), s+" = ") {
					t.Errorf("the README does not tell of the setting %s", s)
				}
			}
			if list == nil {
				return
			}
			for _, allowed := range regexp.MustCompile(`"(\w+)"`).FindAllStringSubmatch(list[1], -1) {
				if !settings[allowed[1]] && !strings.Contains(text, `var.settings, "`+allowed[1]+`"`) {
					t.Errorf("the setting %s is allowed and does nothing", allowed[1])
				}
			}
		})
	}
}
