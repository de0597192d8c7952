package functions

import (
	"errors"
	"slices"

	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
)

func anyParam(name string) function.Parameter {
	return function.Parameter{Name: name, Type: cty.DynamicPseudoType}
}

func isSequence(t cty.Type) bool { return t.IsListType() || t.IsSetType() || t.IsTupleType() }

// length counts elements, and characters where it gets a string.
var length = function.New(&function.Spec{
	Params: []function.Parameter{{
		Name: "value", Type: cty.DynamicPseudoType, AllowDynamicType: true, AllowUnknown: true, AllowMarked: true,
	}},
	Type: func(args []cty.Value) (cty.Type, error) {
		t := args[0].Type()
		if t == cty.String || t == cty.DynamicPseudoType || t.IsObjectType() || isSequence(t) || t.IsMapType() {
			return cty.Number, nil
		}
		return cty.Number, function.NewArgErrorf(0, "must be a string, a collection or a structure")
	},
	RefineResult: func(b *cty.RefinementBuilder) *cty.RefinementBuilder {
		return b.NotNull().NumberRangeLowerBound(cty.Zero, true)
	},
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		// The number of elements is no secret where only elements are.
		v, marks := args[0].Unmark()
		switch t := v.Type(); {
		case t == cty.DynamicPseudoType:
			return cty.UnknownVal(cty.Number).WithMarks(marks), nil
		case t == cty.String:
			n, err := stdlib.Strlen(v)
			return n.WithMarks(marks), err
		case t.IsTupleType():
			return cty.NumberIntVal(int64(len(t.TupleElementTypes()))).WithMarks(marks), nil
		case t.IsObjectType():
			return cty.NumberIntVal(int64(len(t.AttributeTypes()))).WithMarks(marks), nil
		default:
			return v.Length().WithMarks(marks), nil
		}
	},
})

// coalesce is its first argument that is neither null nor an empty string.
var coalesce = function.New(&function.Spec{
	VarParam: &function.Parameter{
		Name: "vals", Type: cty.DynamicPseudoType, AllowUnknown: true, AllowDynamicType: true, AllowNull: true,
	},
	Type: func(args []cty.Value) (cty.Type, error) {
		types := make([]cty.Type, len(args))
		for i, a := range args {
			types[i] = a.Type()
		}
		t, _ := convert.UnifyUnsafe(types)
		if t == cty.NilType {
			return cty.NilType, errors.New("all arguments must have the same type")
		}
		return t, nil
	},
	Impl: func(args []cty.Value, want cty.Type) (cty.Value, error) {
		for _, a := range args {
			v, err := convert.Convert(a, want)
			if err != nil {
				return cty.NilVal, err
			}
			if !v.IsKnown() {
				return cty.UnknownVal(want), nil
			}
			if v.IsNull() || v.Type() == cty.String && v.AsString() == "" {
				continue
			}
			return v, nil
		}
		return cty.NilVal, errors.New("no argument is set: all are null or empty strings")
	},
})

// index is the position of a value in a list.
var index = function.New(&function.Spec{
	Params: []function.Parameter{anyParam("list"), anyParam("value")},
	Type: func(args []cty.Value) (cty.Type, error) {
		if t := args[0].Type(); !t.IsListType() && !t.IsTupleType() {
			return cty.NilType, function.NewArgErrorf(0, "must be a list")
		}
		return cty.Number, nil
	},
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		for it := args[0].ElementIterator(); it.Next(); {
			i, v := it.Element()
			equal, err := stdlib.Equal(v, args[1])
			if err != nil {
				return cty.NilVal, err
			}
			if !equal.IsKnown() {
				return cty.UnknownVal(cty.Number), nil
			}
			if equal.True() {
				return i, nil
			}
		}
		return cty.NilVal, errors.New("the list does not hold this value")
	},
})

// lookup is the value at a key, or else its third argument.
var lookup = function.New(&function.Spec{
	Params:   []function.Parameter{anyParam("map"), stringParam("key")},
	VarParam: &function.Parameter{Name: "default", Type: cty.DynamicPseudoType, AllowNull: true, AllowUnknown: true, AllowDynamicType: true},
	Type: func(args []cty.Value) (cty.Type, error) {
		if len(args) > 3 {
			return cty.NilType, errors.New("lookup takes a map, a key and at most one default")
		}
		switch t := args[0].Type(); {
		case t.IsMapType():
			return t.ElementType(), nil
		case t.IsObjectType():
			if !args[1].IsKnown() {
				return cty.DynamicPseudoType, nil
			}
			if key := args[1].AsString(); t.HasAttribute(key) {
				return t.AttributeType(key), nil
			}
			if len(args) == 3 {
				return args[2].Type(), nil
			}
			return cty.NilType, function.NewArgErrorf(1, "the object has no such attribute, and there is no default")
		default:
			return cty.NilType, function.NewArgErrorf(0, "must be a map or an object")
		}
	},
	Impl: func(args []cty.Value, want cty.Type) (cty.Value, error) {
		key := args[1].AsString()
		if t := args[0].Type(); t.IsObjectType() {
			if t.HasAttribute(key) {
				return args[0].GetAttr(key), nil
			}
		} else {
			has := args[0].HasIndex(args[1])
			if !has.IsKnown() {
				return cty.UnknownVal(want), nil
			}
			if has.True() {
				return args[0].Index(args[1]), nil
			}
		}
		if len(args) == 3 {
			v, err := convert.Convert(args[2], want)
			if err != nil {
				return cty.NilVal, function.NewArgErrorf(2, "the default must have the type of the map's elements")
			}
			return v, nil
		}
		return cty.NilVal, function.NewArgErrorf(1, "the map has no such key, and there is no default")
	},
})

// one is the only element of a list, or null when it has none.
var one = function.New(&function.Spec{
	Params: []function.Parameter{anyParam("list")},
	Type: func(args []cty.Value) (cty.Type, error) {
		switch t := args[0].Type(); {
		case t.IsListType() || t.IsSetType():
			return t.ElementType(), nil
		case t.IsTupleType():
			switch types := t.TupleElementTypes(); len(types) {
			case 0:
				return cty.DynamicPseudoType, nil
			case 1:
				return types[0], nil
			}
		}
		return cty.NilType, function.NewArgErrorf(0, "must be a list, set or tuple with one element or none")
	},
	Impl: func(args []cty.Value, want cty.Type) (cty.Value, error) {
		switch n := args[0].LengthInt(); n {
		case 0:
			return cty.NullVal(want), nil
		case 1:
			it := args[0].ElementIterator()
			it.Next()
			_, v := it.Element()
			return v, nil
		default:
			return cty.NilVal, function.NewArgErrorf(0, "must have one element or none, has %d", n)
		}
	},
})

// sum adds the numbers of a list.
var sum = function.New(&function.Spec{
	Params: []function.Parameter{anyParam("list")},
	Type: func(args []cty.Value) (cty.Type, error) {
		if !isSequence(args[0].Type()) {
			return cty.NilType, function.NewArgErrorf(0, "must be a list, set or tuple of numbers")
		}
		return cty.Number, nil
	},
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		total := cty.Zero
		for it := args[0].ElementIterator(); it.Next(); {
			_, v := it.Element()
			n, err := convert.Convert(v, cty.Number)
			if err != nil || n.IsNull() {
				return cty.NilVal, function.NewArgErrorf(0, "all elements must be numbers")
			}
			if total, err = stdlib.Add(total, n); err != nil {
				return cty.NilVal, err
			}
		}
		return total, nil
	},
})

var (
	allTrue = foldBools(stdlib.And, cty.True)
	anyTrue = foldBools(stdlib.Or, cty.False)
)

func foldBools(combine func(a, b cty.Value) (cty.Value, error), start cty.Value) function.Function {
	return function.New(&function.Spec{
		Params:       []function.Parameter{{Name: "list", Type: cty.List(cty.Bool)}},
		Type:         function.StaticReturnType(cty.Bool),
		RefineResult: notNull,
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			result := start
			for it := args[0].ElementIterator(); it.Next(); {
				_, v := it.Element()
				if v.IsNull() {
					return cty.False, nil
				}
				var err error
				if result, err = combine(result, v); err != nil {
					return cty.NilVal, err
				}
			}
			return result, nil
		},
	})
}

// matchKeys picks the values whose key, at the same position, is searched for.
var matchKeys = function.New(&function.Spec{
	Params: []function.Parameter{
		{Name: "values", Type: cty.List(cty.DynamicPseudoType)},
		{Name: "keys", Type: cty.List(cty.DynamicPseudoType)},
		{Name: "searchset", Type: cty.List(cty.DynamicPseudoType)},
	},
	Type: func(args []cty.Value) (cty.Type, error) {
		if t, _ := convert.UnifyUnsafe([]cty.Type{args[1].Type(), args[2].Type()}); t == cty.NilType {
			return cty.NilType, errors.New("keys and searchset must have the same type")
		}
		return args[0].Type(), nil
	},
	Impl: func(args []cty.Value, want cty.Type) (cty.Value, error) {
		if !args[0].IsWhollyKnown() || !args[1].IsWhollyKnown() || !args[2].IsWhollyKnown() {
			return cty.UnknownVal(want), nil
		}
		if args[0].LengthInt() != args[1].LengthInt() {
			return cty.NilVal, errors.New("values and keys must have the same length")
		}
		keys, search := args[1].AsValueSlice(), args[2].AsValueSlice()
		var picked []cty.Value
		for i, v := range args[0].AsValueSlice() {
			for _, s := range search {
				equal, err := stdlib.Equal(keys[i], s)
				if err != nil {
					return cty.NilVal, err
				}
				if equal.True() {
					picked = append(picked, v)
					break
				}
			}
		}
		if len(picked) == 0 {
			return cty.ListValEmpty(want.ElementType()), nil
		}
		return cty.ListVal(picked), nil
	},
})

// transpose swaps the keys and the values of a map of lists of strings.
var transpose = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "values", Type: cty.Map(cty.List(cty.String))}},
	Type:   function.StaticReturnType(cty.Map(cty.List(cty.String))),
	Impl: func(args []cty.Value, want cty.Type) (cty.Value, error) {
		if !args[0].IsWhollyKnown() {
			return cty.UnknownVal(want), nil
		}
		swapped := map[string][]string{}
		for it := args[0].ElementIterator(); it.Next(); {
			key, list := it.Element()
			if list.IsNull() {
				return cty.NilVal, function.NewArgErrorf(0, "must not hold a null list")
			}
			for in := list.ElementIterator(); in.Next(); {
				_, v := in.Element()
				if v.IsNull() {
					return cty.NilVal, function.NewArgErrorf(0, "must not hold a null string")
				}
				swapped[v.AsString()] = append(swapped[v.AsString()], key.AsString())
			}
		}
		if len(swapped) == 0 {
			return cty.MapValEmpty(cty.List(cty.String)), nil
		}
		out := make(map[string]cty.Value, len(swapped))
		for key, list := range swapped {
			slices.Sort(list)
			values := make([]cty.Value, len(list))
			for i, s := range list {
				values[i] = cty.StringVal(s)
			}
			out[key] = cty.ListVal(values)
		}
		return cty.MapVal(out), nil
	},
})

// sameValue is the shape of sensitive and nonsensitive: the value itself, with
// other marks.
func sameValue(f func(cty.Value) cty.Value) function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{
			Name: "value", Type: cty.DynamicPseudoType,
			AllowUnknown: true, AllowNull: true, AllowMarked: true, AllowDynamicType: true,
		}},
		Type: func(args []cty.Value) (cty.Type, error) { return args[0].Type(), nil },
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) { return f(args[0]), nil },
	})
}

func markSensitive(mark any) function.Function {
	return sameValue(func(v cty.Value) cty.Value { return v.Mark(mark) })
}

func nonsensitive(mark any) function.Function {
	return sameValue(func(v cty.Value) cty.Value {
		v, marks := v.Unmark()
		delete(marks, mark)
		return v.WithMarks(marks)
	})
}
