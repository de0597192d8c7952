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

// module is a template as its files say.
type module struct {
	variables map[string]string // their types, as they are written, without spaces
	outputs   map[string]*hclsyntax.Body
	resources []string // "type.name"
	keyed     map[string]string
	refers    map[string]bool // what expressions of locals refer to: "instance.user_data"
}

func readModule(t *testing.T, dir string) module {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.tf"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s holds no module: %v", dir, err)
	}
	m := module{variables: map[string]string{}, outputs: map[string]*hclsyntax.Body{}, keyed: map[string]string{}, refers: map[string]bool{}}
	parser := hclparse.NewParser()
	for _, path := range files {
		file, diags := parser.ParseHCLFile(path)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		text := func(r hcl.Range) string { return strings.Join(strings.Fields(string(r.SliceBytes(file.Bytes))), "") }
		for _, block := range file.Body.(*hclsyntax.Body).Blocks {
			switch block.Type {
			case "locals":
				for _, attr := range block.Body.Attributes {
					_ = hclsyntax.VisitAll(attr.Expr, func(node hclsyntax.Node) hcl.Diagnostics {
						if e, ok := node.(*hclsyntax.ScopeTraversalExpr); ok {
							m.refers[text(e.Range())] = true
						}
						return nil
					})
				}
			case "variable":
				m.variables[block.Labels[0]] = text(block.Body.Attributes["type"].Expr.Range())
			case "output":
				m.outputs[block.Labels[0]] = block.Body
			case "resource":
				name := strings.Join(block.Labels, ".")
				m.resources = append(m.resources, name)
				if each := block.Body.Attributes["for_each"]; each != nil {
					m.keyed[block.Labels[1]] = text(each.Expr.Range())
				}
			}
		}
	}
	return m
}

// tables returns what the first columns of the tables of CONTRACT.md name: the
// variables, and the attributes of an instance with whether each is optional.
func tables(t *testing.T) (variables []string, attributes map[string]bool) {
	t.Helper()
	data, err := os.ReadFile("CONTRACT.md")
	if err != nil {
		t.Fatal(err)
	}
	in, out, found := strings.Cut(string(data), "## Out")
	if !found {
		t.Fatal("CONTRACT.md has no part Out")
	}
	out, _, _ = strings.Cut(out, "\n## ")
	name := regexp.MustCompile("`([a-z_]+)`")
	attributes = map[string]bool{}
	row := func(line string) (names []string, rest string) {
		cells := strings.SplitN(line, "|", 3)
		if len(cells) < 3 || !strings.HasPrefix(line, "| `") {
			return nil, ""
		}
		for _, match := range name.FindAllStringSubmatch(cells[1], -1) {
			names = append(names, match[1])
		}
		return names, cells[2]
	}
	for line := range strings.Lines(in) {
		names, _ := row(line)
		variables = append(variables, names...)
	}
	for line := range strings.Lines(out) {
		names, rest := row(line)
		for _, n := range names {
			attributes[n] = strings.Contains(rest, "optional") || strings.Contains(rest, "left out")
		}
	}
	return variables, attributes
}

// TestTemplatesKeepTheContract: every template has the contract's variables with the
// same types, and an output with its attributes and no other.
func TestTemplatesKeepTheContract(t *testing.T) {
	dirs, err := filepath.Glob("*/main.tf")
	if err != nil || len(dirs) < 3 {
		t.Fatalf("only these templates: %v, %v", dirs, err)
	}
	variables, attributes := tables(t)
	slices.Sort(variables)
	if len(variables) != 5 || len(attributes) < 15 {
		t.Fatalf("CONTRACT.md is read wrongly: %v, %v", variables, attributes)
	}
	local := readModule(t, "local")
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range dirs {
		name := filepath.Dir(path)
		t.Run(name, func(t *testing.T) {
			m := readModule(t, name)
			for _, variable := range variables {
				if m.variables[variable] != local.variables[variable] {
					t.Errorf("variable %s has the type %q, not %q as in local", variable, m.variables[variable], local.variables[variable])
				}
			}
			for variable := range m.variables {
				if !slices.Contains(variables, variable) {
					t.Errorf("variable %s is not in CONTRACT.md: nobody would set it", variable)
				}
			}
			body := m.outputs["instances"]
			if body == nil {
				t.Fatal("there is no output instances")
			}
			loop, ok := body.Attributes["value"].Expr.(*hclsyntax.ForExpr)
			if !ok {
				t.Fatalf("the output instances is no map over the VMs but a %T", body.Attributes["value"].Expr)
			}
			object, ok := loop.ValExpr.(*hclsyntax.ObjectConsExpr)
			if !ok {
				t.Fatalf("an instance is no object but a %T", loop.ValExpr)
			}
			there := map[string]bool{}
			for _, item := range object.Items {
				key := hcl.ExprAsKeyword(item.KeyExpr)
				there[key] = true
				if _, known := attributes[key]; !known {
					t.Errorf("the output has %s, which is not in CONTRACT.md", key)
				}
			}
			for attribute, optional := range attributes {
				if !optional && !there[attribute] {
					t.Errorf("the output lacks %s", attribute)
				}
			}
			// What deploy knows by name has the keys that it goes by.
			for kind, each := range map[string]string{"disk": "var.disks", "address": "var.instances"} {
				if got, has := m.keyed[kind]; has && got != each && name != "local" {
					t.Errorf("the resources %s are made for each of %s, not of %s", kind, got, each)
				}
			}
			// VMs that are made get the manifest's user data; machines that are there have
			// no first boot.
			if got, want := m.refers["instance.user_data"], name != "local" && name != "hosts"; got != want {
				t.Errorf("that it uses user_data is %v, want %v", got, want)
			}
			if !strings.Contains(string(readme), "| `"+name+"` |") {
				t.Errorf("README.md has no line for the template %s", name)
			}
		})
	}
}
